// Visits a page with a real Chromium, waits for a text, and prints as JSON what was seen on the way.
//
//     node visit.js '{"url": ..., "until": "text", "script": true, "width": 1000, "dark": false, "shot": "a.png", "release": "a file that the app waits for"}'
'use strict';
const fs = require('node:fs');
const { chromium } = require('playwright-core');

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

const look = async (page, options) => {
  // Without scripts there is nothing to ask the page with.
  if (!options.script) return { title: await page.title() };
  const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
  const { violations } = await page.evaluate(`${axe}; axe.run()`);
  return {
    title: await page.title(),
    text: await page.locator('body').innerText(),
    step: await page.evaluate(() => document.querySelector('[aria-current]')?.textContent),
    violations: violations.map((one) => one.id),
    overflows: await page.evaluate(() => document.documentElement.scrollWidth > innerWidth),
  };
};

const main = async () => {
  const options = { script: true, width: 1000, ...JSON.parse(process.argv[2]) };
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', headless: true, args: FLAGS });
  const context = await browser.newContext({
    javaScriptEnabled: options.script,
    viewport: { width: options.width, height: 680 },
    colorScheme: options.dark ? 'dark' : 'light',
  });
  const page = await context.newPage();
  const errors = [];
  const loads = [];
  // That the status is 503 stands in the console too.
  page.on('console', (message) => {
    if (message.type() === 'error' && !message.text().includes('status of 5')) errors.push(message.text());
  });
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('response', (response) => {
    if (response.request().isNavigationRequest()) loads.push(response.status());
  });
  await page.goto(options.url);
  if (options.shot) await page.screenshot({ path: options.shot });
  const first = await look(page, options);
  // What the app waits for.
  if (options.release) fs.writeFileSync(options.release, '');
  await page.getByText(options.until).first().waitFor({ timeout: 60000 });
  if (options.shot) await page.screenshot({ path: options.shot.replace('.png', '-end.png') });
  const last = { url: page.url(), text: await page.locator('body').innerText(), ...(await look(page, options)) };
  // What goes on by itself would do so now.
  if (options.stay) await page.waitForTimeout(options.stay);
  await browser.close();
  console.log(JSON.stringify({ first, last, loads, errors }));
};

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
