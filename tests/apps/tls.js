// A server that speaks TLS, HTTP/2 and HTTP/1.1, and says how it was asked:
// tls.js PORT KEY CERTIFICATE
'use strict';
const fs = require('node:fs');
const http2 = require('node:http2');

const [port, key, cert] = process.argv.slice(2);
const files = { key: fs.readFileSync(key), cert: fs.readFileSync(cert) };
const server = http2.createSecureServer({ ...files, allowHTTP1: true }, (request, response) => {
  if (request.url === '/trailers') {
    response.addTrailers({ 'x-after': 'ours' });
    return response.end('before');
  }
  const host = request.headers[':authority'] || request.headers.host;
  const { httpVersion: version, url } = request;
  // Of HTTP/2 it is the connection's socket that knows.
  const socket = request.stream ? request.stream.session.socket : request.socket;
  const fields = Object.keys(request.headers);
  response.end(JSON.stringify({ version, url, host, name: socket.servername, fields }));
});
server.listen(Number(port), '127.0.0.1');
