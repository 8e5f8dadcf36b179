// A Node app for tests: echoes, streams, uploads, WebSockets. What it does at its start is told by
// the environment.
'use strict';
const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const { URL } = require('node:url');

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const env = process.env;
const born = Date.now();
if (env.STARTS_FILE) fs.appendFileSync(env.STARTS_FILE, `${env.NAME || process.pid}\n`);
if (env.IGNORE_TERM) process.on('SIGTERM', () => {});
for (const signal of env.SIGNALS_FILE ? ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGUSR2'] : []) {
  process.on(signal, () => {
    const name = env.NAME ? `${env.NAME} ` : '';
    fs.appendFileSync(env.SIGNALS_FILE, `${name}${signal}\n`);
    const end = () => {
      if (env.STOP_DELAY) fs.appendFileSync(env.SIGNALS_FILE, `${name}ends\n`);
      process.exit(0);
    };
    if (env.STOP_DELAY) setTimeout(end, Number(env.STOP_DELAY));
    else end();
  });
}

const seen = (request) => {
  if (env.SEEN_FILE) fs.appendFileSync(env.SEEN_FILE, `${request.method} ${request.url}\n`);
};

const routes = {
  '/pid': (request, response) => response.end(String(process.pid)),
  '/replica': (request, response) => response.end(env.DOORBELL_REPLICA || 'none'),
  '/version': (request, response) => response.end(env.VERSION || '1'),
  '/headers': (request, response) => {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ method: request.method, url: request.url, raw: request.rawHeaders }));
  },
  '/upload': (request, response) => {
    const hash = crypto.createHash('sha256');
    let length = 0;
    request.on('data', (data) => {
      hash.update(data);
      length += data.length;
    });
    request.on('end', () => response.end(JSON.stringify({ length, sha256: hash.digest('hex') })));
  },
  '/slow': (request, response, url) => {
    setTimeout(() => response.end('slow'), Number(url.searchParams.get('ms')));
  },
  '/stream': (request, response, url) => {
    let left = Number(url.searchParams.get('count'));
    const timer = setInterval(() => {
      if (left-- <= 0) {
        clearInterval(timer);
        return response.end();
      }
      response.write(`data: ${born}-${left}\n\n`);
    }, Number(url.searchParams.get('ms')));
    response.setHeader('Content-Type', 'text/event-stream');
    response.setHeader('X-Replica', env.DOORBELL_REPLICA || 'none');
    response.flushHeaders();
    response.on('close', () => clearInterval(timer));
  },
  '/big': (request, response, url) => {
    response.end(Buffer.alloc(Number(url.searchParams.get('size')), 'x'));
  },
  '/moved': (request, response) => {
    response.writeHead(302, { Location: '/login', 'Set-Cookie': ['a=b; Path=/', 'c=d'] });
    response.end();
  },
  '/crash': () => process.exit(3),
  '/half': (request, response) => {
    response.writeHead(200, { 'Content-Length': 100 });
    response.write('half', () => process.exit(3));
  },
};

const server = http.createServer((request, response) => {
  seen(request);
  const url = new URL(request.url, 'http://h');
  const route = routes[url.pathname.replace(env.BASE || '', '')];
  if (route) return route(request, response, url);
  response.end(`node ${request.method} ${request.url}\n`);
});
server.keepAliveTimeout = 0;

server.on('upgrade', (request, socket, head) => {
  seen(request);
  if (request.url === '/refuse') {
    return socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nX-Why: no\r\n\r\nno');
  }
  if (request.url === '/refuse-headers') {
    const body = JSON.stringify({ raw: request.rawHeaders });
    return socket.end(`HTTP/1.1 403 Forbidden\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  }
  const accept = crypto
    .createHash('sha1')
    .update(request.headers['sec-websocket-key'] + GUID)
    .digest('base64');
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  socket.on('error', () => socket.destroy());
  let rest = head;
  const read = (data) => {
    rest = Buffer.concat([rest, data]);
    while (rest.length >= 6) {
      const length = rest[1] & 127;
      if (rest.length < 6 + length) return;
      if ((rest[0] & 15) === 8) return socket.end(Buffer.from([0x88, 0]));
      const payload = Buffer.from(rest.subarray(6, 6 + length));
      for (let i = 0; i < length; i++) payload[i] ^= rest[2 + (i % 4)];
      rest = rest.subarray(6 + length);
      socket.write(Buffer.concat([Buffer.from([0x81, length]), payload]));
    }
  };
  socket.on('data', read);
  read(Buffer.alloc(0));
});

const listen = () => {
  const done = () => console.log('listening, process', process.pid);
  if (env.LISTEN_FDS) return server.listen({ fd: 3 }, done);
  if (env.SOCKET) return server.listen(env.SOCKET, done);
  server.listen(Number(env.PORT), env.BIND || '127.0.0.1', done);
};
const listenWhenThere = () => {
  if (fs.existsSync(env.START_WHEN)) listen();
  else setTimeout(listenWhenThere, 20);
};
if (env.START_WHEN) listenWhenThere();
else setTimeout(listen, Number(env.START_DELAY || 0));
