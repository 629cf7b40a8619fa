// The peer that is written with @grpc/grpc-js: a server and a client of the service in ../proto.
'use strict';

const assert = require('node:assert/strict');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { setTimeout: sleep } = require('node:timers/promises');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const { ReflectionService } = require('@grpc/reflection');
const health = require('grpc-health-check');

const loaded = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const definition = protoLoader.loadSync(path.join(__dirname, 'peer.proto'), loaded);
const { Peer } = grpc.loadPackageDefinition(definition).pillion.languages.v1;

const MAX_MESSAGE = 8 << 20; // the largest message that is taken, in bytes
const PATIENCE = 60_000; // bounds what has to succeed, in milliseconds
const OPTIONS = {
  'grpc.max_receive_message_length': MAX_MESSAGE,
  'grpc.max_send_message_length': 2 * MAX_MESSAGE,
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_permit_without_calls': 1,
};

// --- server ---------------------------------------------------------------

// By their hold: a promise of the end, and what keeps it.
const ends = new Map();

function end(hold) {
  if (!ends.has(hold)) {
    ends.set(hold, Promise.withResolvers ? Promise.withResolvers() : resolvers());
  }
  return ends.get(hold);
}

function resolvers() {
  const made = {};
  made.promise = new Promise((resolve) => { made.resolve = resolve; });
  return made;
}

// Sends the headers, and returns what the trailers will be.
function echoMetadata(call) {
  const header = new grpc.Metadata();
  const trailer = new grpc.Metadata();
  for (const suffix of ['', '-bin']) {
    for (const value of call.metadata.get('x-echo' + suffix)) {
      header.add('x-echo' + suffix, value);
      trailer.add('x-trail' + suffix, value);
    }
  }
  call.sendMetadata(header);
  return trailer;
}

function failure(request, trailer) {
  if (request.fail_details.length > 0) {
    trailer.set('grpc-status-details-bin', request.fail_details);
  }
  return { code: request.fail_code, details: request.fail_message, metadata: trailer };
}

function answer(request, call) {
  const deadline = call.getDeadline();
  const left = deadline === Infinity ? 0 : +deadline - Date.now();
  return {
    payload: request.answer_size ? Buffer.alloc(request.answer_size) : request.payload,
    requests: 1,
    bytes: request.payload.length,
    remaining_ms: Math.max(0, Math.floor(left)),
  };
}

const service = {
  Unary(call, callback) {
    const trailer = echoMetadata(call);
    if (call.request.fail_code) {
      callback(failure(call.request, trailer));
    } else if (call.request.hold) {
      call.on('cancelled', () => {
        end(call.request.hold).resolve();
        callback({ code: grpc.status.CANCELLED });
      });
    } else {
      callback(null, answer(call.request, call), trailer);
    }
  },

  Collect(call, callback) {
    const trailer = echoMetadata(call);
    const response = { requests: 0, bytes: 0 };
    let failed = false;
    call.on('data', (request) => {
      if (failed) return;
      if (request.fail_code) {
        failed = true;
        callback(failure(request, trailer));
        return;
      }
      response.requests += 1;
      response.bytes += request.payload.length;
    });
    call.on('end', () => { if (!failed) callback(null, response, trailer); });
  },

  async Spread(call) {
    const trailer = echoMetadata(call);
    for (let i = 0; i < call.request.answers; i++) {
      if (!call.write(answer(call.request, call))) {
        await new Promise((resolve) => { call.once('drain', resolve); });
      }
    }
    if (call.request.fail_code) {
      call.emit('error', failure(call.request, trailer));
    } else {
      call.end(trailer);
    }
  },

  Chat(call) {
    const trailer = echoMetadata(call);
    let holding = false;
    call.on('data', (request) => {
      if (request.fail_code) {
        call.emit('error', failure(request, trailer));
        return;
      }
      call.write(answer(request, call));
      if (request.hold) {
        holding = true;
        call.on('cancelled', () => end(request.hold).resolve());
      }
    });
    call.on('end', () => { if (!holding) call.end(trailer); });
  },

  async Ended(call, callback) {
    const late = sleep(10_000).then(() => false);
    const cancelled = await Promise.race([end(call.request.hold).promise.then(() => true), late]);
    callback(null, { cancelled });
  },
};

function serve() {
  const server = new grpc.Server(OPTIONS);
  server.addService(Peer.service, service);
  new health.HealthImplementation({ '': 'SERVING' }).addToServer(server);
  new ReflectionService(definition).addToServer(server);
  server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    console.log(`listening on 127.0.0.1:${port} (grpc-js ${require('@grpc/grpc-js/package.json').version})`);
  });
}

// --- client ---------------------------------------------------------------

const MESSAGE = 'because of 100 % naïveté: 世界';
const TEXTS = ['one', 'two words'];
const BINARIES = [Buffer.from([0x00, 0x01, 0xfe, 0xff]), Buffer.from('\x80,;= ', 'latin1')];

function echo() {
  const metadata = new grpc.Metadata();
  TEXTS.forEach((text) => metadata.add('x-echo', text));
  BINARIES.forEach((value) => metadata.add('x-echo-bin', value));
  return metadata;
}

function soon(milliseconds = PATIENCE) {
  return { deadline: Date.now() + milliseconds };
}

// Keeps what a call tells, and gives a promise of its status. An error is a status too.
function watch(call) {
  const seen = { call, header: undefined };
  call.on('metadata', (metadata) => { seen.header = metadata; });
  call.on('error', () => {});
  seen.status = new Promise((resolve) => { call.on('status', resolve); });
  return seen;
}

// The texts of repeated metadata: grpc-js joins them with a comma, as HTTP allows.
function texts(values) {
  return values.flatMap((value) => value.split(', '));
}

function sameMetadata(kind, seen, status) {
  assert.deepEqual(texts(seen.header.get('x-echo')), TEXTS, `${kind} x-echo`);
  assert.deepEqual(seen.header.get('x-echo-bin'), BINARIES, `${kind} x-echo-bin`);
  assert.deepEqual(texts(status.metadata.get('x-trail')), TEXTS, `${kind} x-trail`);
  assert.deepEqual(status.metadata.get('x-trail-bin'), BINARIES, `${kind} x-trail-bin`);
}

class Client {
  constructor(options) {
    this.options = options;
    this.details = Buffer.from(options.details, 'hex');
    this.unique = `node-${process.pid}-${Date.now()}`;
    this.peer = this.dial(Peer, options.authority);
  }

  dial(Service, authority, more = {}) {
    const options = { ...OPTIONS, 'grpc.use_local_subchannel_pool': 1, ...more };
    if (authority) options['grpc.default_authority'] = authority;
    return new Service(this.options.target, grpc.credentials.createInsecure(), options);
  }

  async run() {
    for (const name of this.options.cases.split(',')) {
      const said = { case: name, error: '', code: 0 };
      try {
        said.code = (await this[name]()) ?? 0;
      } catch (error) {
        said.error = String(error.stack ?? error);
      }
      console.log(JSON.stringify(said));
    }
    this.peer.close();
  }

  // Makes a unary RPC and gives its answer, headers and status, whatever that is.
  async call(request, options = soon(), metadata = new grpc.Metadata(), method = 'Unary', peer = this.peer) {
    let response;
    let done;
    const answered = new Promise((resolve) => { done = resolve; });
    const seen = watch(peer[method](request, metadata, options, (error, value) => {
      response = value;
      done();
    }));
    const status = await seen.status;
    await answered;
    return { ...seen, response, status };
  }

  async succeeds(...args) {
    const result = await this.call(...args);
    assert.equal(result.status.code, grpc.status.OK, result.status.details);
    return result.response;
  }

  async unary() {
    const response = await this.succeeds({ payload: Buffer.from('hello') });
    assert.equal(response.payload.toString(), 'hello');
  }

  async client_streaming() {
    const response = await new Promise((resolve, reject) => {
      const call = this.peer.Collect(soon(), (error, value) => (error ? reject(error) : resolve(value)));
      for (let i = 0; i < 100; i++) call.write({ payload: Buffer.alloc(50_000) });
      call.end();
    });
    assert.equal(response.requests, 100);
    assert.equal(response.bytes, 5_000_000);
  }

  async server_streaming() {
    let answers = 0;
    let bytes = 0;
    for await (const response of this.peer.Spread({ answers: 100, answer_size: 50_000 }, soon())) {
      answers += 1;
      bytes += response.payload.length;
    }
    assert.equal(answers, 100);
    assert.equal(bytes, 5_000_000);
  }

  // Each request waits for the answer before it, so nothing may be held back.
  async bidi_streaming() {
    const call = this.peer.Chat(soon());
    let count = 0;
    call.write({ payload: Buffer.from('message 0') });
    for await (const response of call) {
      assert.equal(response.payload.toString(), `message ${count}`);
      count += 1;
      if (count < 20) call.write({ payload: Buffer.from(`message ${count}`) });
      else call.end();
    }
    assert.equal(count, 20);
  }

  async metadata() {
    const unary = await this.call({}, soon(), echo());
    sameMetadata('unary', unary, unary.status);

    const seen = watch(this.peer.Spread({ answers: 1 }, echo(), soon()));
    seen.call.on('data', () => {});
    sameMetadata('streaming', seen, await seen.status);
  }

  async status() {
    const failing = { answers: 1, fail_code: 9, fail_message: MESSAGE, fail_details: this.details };
    const sameStatus = (status) => {
      assert.equal(status.details, MESSAGE);
      assert.deepEqual(status.metadata.get('grpc-status-details-bin'), [this.details]);
    };

    const { status } = await this.call(failing, soon(), echo());
    sameStatus(status);
    assert.deepEqual(status.metadata.get('x-trail-bin'), BINARIES);

    let answers = 0;
    const seen = watch(this.peer.Spread(failing, soon()));
    seen.call.on('data', () => { answers += 1; });
    const ended = await seen.status;
    sameStatus(ended);
    assert.equal(answers, 1, 'answers before the status');
    return ended.code;
  }

  // The server ends the RPC while the client is still sending.
  async early_status() {
    const seen = watch(this.peer.Collect(soon(), () => {}));
    const request = { fail_code: 10, fail_message: MESSAGE, payload: Buffer.alloc(50_000) };
    for (let i = 0; i < 1000; i++) seen.call.write(request);
    seen.call.end();
    const status = await seen.status;
    assert.equal(status.details, MESSAGE);
    return status.code;
  }

  async ended(hold) {
    const response = await this.succeeds({ hold }, soon(), new grpc.Metadata(), 'Ended');
    assert.equal(response.cancelled, true, 'the server saw the RPC cancelled');
  }

  async deadline_expires() {
    const hold = this.unique + '-deadline';
    const begin = Date.now();
    const { status } = await this.call({ hold }, soon(300));
    const took = Date.now() - begin;
    assert.ok(took > 250 && took < 5_000, `a deadline of 300 ms expired after ${took} ms`);
    await this.ended(hold);
    return status.code;
  }

  async deadline_arrives() {
    const { remaining_ms: left } = await this.succeeds({}, soon(30_000));
    assert.ok(left > 20_000 && left <= 30_100, `of 30 s there were ${left} ms left`);
  }

  async cancel() {
    const hold = this.unique + '-cancel';
    const seen = watch(this.peer.Chat(soon()));
    seen.call.write({ hold });
    seen.call.once('data', () => seen.call.cancel());
    const status = await seen.status;
    await this.ended(hold);
    return status.code;
  }

  async large() {
    const payload = Buffer.alloc(4 << 20, 'abcdefghijklmnop');
    const response = await this.succeeds({ payload });
    assert.ok(response.payload.equals(payload), `${response.payload.length} other bytes came back`);
  }

  async too_large_request() {
    return (await this.call({ payload: Buffer.alloc(9 << 20) })).status.code;
  }

  async too_large_answer() {
    return (await this.call({ answer_size: 9 << 20 })).status.code;
  }

  async gzip() {
    const peer = this.dial(Peer, this.options.authority, {
      'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip,
    });
    const request = { payload: Buffer.alloc(1 << 20), answer_size: 1 << 20, gzip: true };
    const response = await this.succeeds(request, soon(), new grpc.Metadata(), 'Unary', peer);
    peer.close();
    assert.equal(response.bytes, 1 << 20);
    assert.equal(response.payload.length, 1 << 20);
  }

  async health() {
    const { Health } = grpc.loadPackageDefinition(protoLoader.loadSync(health.protoPath, loaded)).grpc.health.v1;
    const stub = this.dial(Health, this.options.authority);
    const check = await this.succeeds({}, soon(), new grpc.Metadata(), 'Check', stub);
    assert.equal(check.status, 'SERVING', 'Check');

    const { call } = watch(stub.Watch({}, soon()));
    const [first] = await new Promise((resolve) => { call.once('data', (value) => resolve([value])); });
    assert.equal(first.status, 'SERVING', 'Watch');
    call.cancel();
    stub.close();
  }

  // Without the authority, as a person asks who has a sidecar before him, and not one service.
  async reflection() {
    const file = path.join(require.resolve('@grpc/reflection'), '../../proto/grpc/reflection/v1/reflection.proto');
    const { ServerReflection } = grpc.loadPackageDefinition(protoLoader.loadSync(file, loaded)).grpc.reflection.v1;
    const stub = this.dial(ServerReflection, '');
    const seen = watch(stub.ServerReflectionInfo(soon()));
    let response;
    seen.call.on('data', (value) => { response = value; });
    seen.call.write({ file_containing_symbol: 'pillion.languages.v1.Peer' });
    seen.call.end();
    const status = await seen.status;
    stub.close();
    assert.equal(status.code, grpc.status.OK, status.details);
    assert.ok(response.file_descriptor_response?.file_descriptor_proto.length, `no descriptor came: ${JSON.stringify(response)}`);
  }

  async keepalive() {
    await this.unary();
    console.log('idle');
    await sleep(this.options.idle * 1000);
    console.log('awake');
    await this.unary();
  }
}

function main() {
  if (process.argv[2] === 'server') {
    serve();
    return undefined;
  }

  const text = (value) => ({ type: 'string', default: value });
  const { values } = parseArgs({
    args: process.argv.slice(3),
    options: { target: text(''), authority: text(''), details: text(''), cases: text(''), idle: text('0') },
  });
  return new Client({ ...values, idle: Number(values.idle) }).run();
}

main();
