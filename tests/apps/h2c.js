// Speaks HTTP/2 without TLS and nothing else. `/count` tells how often `/health` was asked for.
'use strict';
let asked = 0;
const server = require('http2').createServer((request, response) => {
  if (request.url === '/health') asked += 1;
  response.end(String(asked));
});
server.listen(Number(process.env.PORT), '127.0.0.1');
