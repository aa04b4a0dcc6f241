// Preloaded into servers that can be told a port but no address: they listen on 127.0.0.1 only.

const { Server } = require('node:net');

const { listen } = Server.prototype;
Server.prototype.listen = function listenOnLoopback(port, ...rest) {
  const isPort = typeof port === 'number' || /^\d+$/.test(port);
  return isPort
    ? listen.call(this, Number(port), '127.0.0.1', ...rest)
    : listen.call(this, port, ...rest);
};
