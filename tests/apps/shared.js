// Several apps in one process, told apart by `X-App`, over HTTP/1.1 or (HTTP2) over HTTP/2. `/health` of
// an app is good once the file `<app>.ready` is in READY_DIR, or where there is no such folder.
'use strict';
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const env = process.env;
const asked = {};

const health = (app, response) => {
  const known = (asked[app] ||= { count: 0, now: 0, most: 0 });
  known.count += 1;
  known.now += 1;
  known.most = Math.max(known.most, known.now);
  const good = !env.READY_DIR || fs.existsSync(path.join(env.READY_DIR, `${app}.ready`));
  setTimeout(() => {
    known.now -= 1;
    response.statusCode = good ? 200 : 503;
    response.end();
  }, Number(env.HEALTH_DELAY || 0));
};

const answer = (request, response) => {
  const app = request.headers['x-app'] || 'none';
  const url = new URL(request.url, 'http://h');
  if (url.pathname === '/url') return response.end(request.url);
  if (url.pathname === '/health') return health(app, response);
  if (url.pathname === '/asked') return response.end(JSON.stringify(asked));
  if (url.pathname === '/pid') return response.end(String(process.pid));
  if (url.pathname === '/names') {
    const names = Object.keys(request.headers).filter((name) => /^x.(app|hostname)$/.test(name));
    return response.end(names.sort().join(' '));
  }
  if (url.pathname === '/slow') {
    return setTimeout(() => response.end(app), Number(url.searchParams.get('ms')));
  }
  response.end(app);
};

const server = env.HTTP2
  ? require('node:http2').createServer(answer)
  : require('node:http').createServer(answer);

// The first message is the app's name; what comes is sent back.
server.on('upgrade', (request, socket) => {
  const key = request.headers['sec-websocket-key'];
  const accept = crypto.createHash('sha1').update(key + GUID).digest('base64');
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  const name = Buffer.from(request.headers['x-app'] || 'none');
  socket.write(Buffer.concat([Buffer.from([0x81, name.length]), name]));
  socket.on('error', () => socket.destroy());
  socket.on('data', (data) => {
    const length = data[1] & 127;
    const payload = Buffer.from(data.subarray(6, 6 + length));
    for (let i = 0; i < length; i++) payload[i] ^= data[2 + (i % 4)];
    socket.write(Buffer.concat([Buffer.from([0x81, length]), payload]));
  });
});
if (!env.HTTP2) server.keepAliveTimeout = 0;
setTimeout(() => server.listen(Number(env.PORT), '127.0.0.1'), Number(env.START_DELAY || 0));
