'use strict';
// Follows the start, and shows the app when it is there. A failed start is tried again by people alone:
// pages that do so by themselves would storm an app that cannot start.
(() => {
  const page = document.documentElement;
  const main = document.querySelector('main');
  const find = (id) => document.getElementById(id);
  const say = (id, text) => {
    if (find(id).textContent !== text) find(id).textContent = text;
  };
  const reloadIn = (least, spread) => setTimeout(() => location.reload(), least + Math.random() * spread);
  const news = new EventSource(page.dataset.news);
  // Something between may keep what the server says for itself.
  let silence = 0;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => location.reload(), 30000);
  };
  const end = () => {
    clearTimeout(silence);
    news.close();
  };
  heard();
  news.addEventListener('phase', (event) => {
    heard();
    const { step, words, estimate } = JSON.parse(event.data);
    say('words', words);
    say('estimate', estimate);
    document.querySelectorAll('.steps li').forEach((item, at) => {
      item.className = at < step ? 'done' : '';
      if (at === step) item.setAttribute('aria-current', 'step');
      else item.removeAttribute('aria-current');
    });
  });
  news.addEventListener('ready', () => {
    end();
    reloadIn(0, 250);
  });
  news.addEventListener('changed', () => {
    end();
    reloadIn(500, 1500);
  });
  news.addEventListener('failed', (event) => {
    end();
    const { title, words, again } = JSON.parse(event.data);
    document.title = title;
    main.className = 'over';
    say('title', title);
    say('words', words);
    say('estimate', again);
    find('again').hidden = false;
  });
  news.onerror = () => {
    if (news.readyState === EventSource.CLOSED) {
      end();
      reloadIn(2000, 3000);
    }
  };
})();
