// A chat room without any package: HTTP, and the little of WebSocket (RFC 6455) that it needs.
'use strict';
const crypto = require('node:crypto');
const http = require('node:http');

const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
const sockets = new Set();

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Chat</title>
<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui;max-width:40rem;margin:2rem auto;padding:0 1rem}</style>
<h1>Chat</h1><p>Open this page twice. The app stays awake while somebody is here.</p>
<form><input autofocus size="40"><button>Send</button></form><ul></ul>
<script>
const socket = new WebSocket((location.protocol === 'https:' ? 'wss:' : 'ws:') + '//' + location.host + '/ws');
const [form, list] = [document.querySelector('form'), document.querySelector('ul')];
socket.onmessage = (event) => {
  const item = document.createElement('li');
  item.textContent = event.data;
  list.append(item);
};
form.onsubmit = (event) => {
  event.preventDefault();
  socket.send(form.elements[0].value);
  form.elements[0].value = '';
};
</script></html>`;

const server = http.createServer((request, response) => {
  response.setHeader('Content-Type', 'text/html; charset=utf-8');
  response.end(page);
});

server.on('upgrade', (request, socket, head) => {
  const key = request.headers['sec-websocket-key'];
  const accept = crypto.createHash('sha1').update(key + GUID).digest('base64');
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  sockets.add(socket);
  socket.on('close', () => sockets.delete(socket));
  socket.on('error', () => socket.destroy());
  let rest = head;
  const read = (data) => {
    rest = Buffer.concat([rest, data]);
    for (let frame; (frame = take(rest)); rest = frame.rest) {
      if (frame.opcode === 8) return socket.end(Buffer.from([0x88, 0]));
      if (frame.opcode === 9) socket.write(encode(frame.payload, 10));
      if (frame.opcode === 1) for (const one of sockets) one.write(encode(frame.payload, 1));
    }
  };
  socket.on('data', read);
  read(Buffer.alloc(0));
});

// One masked frame of up to 64 KiB from the front of a buffer, or null if it is not complete.
function take(buffer) {
  if (buffer.length < 2) return null;
  let [length, at] = [buffer[1] & 127, 2];
  if (length === 126) {
    if (buffer.length < 4) return null;
    [length, at] = [buffer.readUInt16BE(2), 4];
  }
  if (buffer.length < at + 4 + length) return null;
  const mask = buffer.subarray(at, at + 4);
  const payload = Buffer.from(buffer.subarray(at + 4, at + 4 + length));
  for (let i = 0; i < length; i++) payload[i] ^= mask[i % 4];
  return { opcode: buffer[0] & 15, payload, rest: buffer.subarray(at + 4 + length) };
}

function encode(payload, opcode) {
  const head = payload.length < 126 ? Buffer.from([0x80 | opcode, payload.length]) : Buffer.alloc(4);
  if (payload.length >= 126) {
    head[0] = 0x80 | opcode;
    head[1] = 126;
    head.writeUInt16BE(payload.length, 2);
  }
  return Buffer.concat([head, payload]);
}

server.listen(process.env.PORT, process.env.HOST, () => {
  console.log('listening on', process.env.PORT);
});
