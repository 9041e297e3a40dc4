// A user of @grpc/grpc-js: `node grpc_js_calls.js ADDRESS INFERENCE.proto HEALTH.descriptors`, with NODE_PATH set.
// It makes every call below once, in this order, and prints as JSON what it saw.
'use strict';

const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [address, proto, descriptors] = process.argv.slice(2);
const shape = { keepCase: true, longs: Number, defaults: true, oneofs: true };
const inference = grpc.loadPackageDefinition(loader.loadSync(proto, shape)).inference;
const healthSet = loader.loadFileDescriptorSetFromBuffer(fs.readFileSync(descriptors), { ...shape, enums: String });
const health = grpc.loadPackageDefinition(healthSet).grpc.health.v1;

const credentials = grpc.credentials.createInsecure();
const unlimited = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };
const service = inference.GRPCInferenceService;
const client = new service(address, credentials, unlimited);
const watcher = new health.Health(address, credentials);

function request(model, numbers, fields = {}) {
  const raw = Buffer.from(Float32Array.from(numbers).buffer);
  const inputs = [{ name: 'x', datatype: 'FP32', shape: [numbers.length / 3, 3] }];
  return { model_name: model, inputs, raw_input_contents: [raw], ...fields };
}

function floats(answer) {
  const raw = answer.raw_output_contents[0];
  return Array.from({ length: raw.length / 4 }, (_, index) => raw.readFloatLE(4 * index));
}

// Resolves to everything that a unary call gave; `begun` is told of the call itself.
function invoke(message, { on = client, method = 'ModelInfer', metadata = new grpc.Metadata(), options = {}, begun } = {}) {
  return new Promise((resolve) => {
    const seen = { ends: 0 };
    const call = on[method](message, metadata, options, (error, answer) => Object.assign(seen, { error, answer }));
    call.on('metadata', (headers) => Object.assign(seen, { headers: headers.getMap() }));
    call.on('status', (status) => {
      seen.ends += 1;
      Object.assign(seen, { code: status.code, details: status.details, trailers: status.metadata.getMap() });
      setImmediate(resolve, seen);
    });
    if (begun) begun(call);
  });
}

function refusal({ code, details, ends, answer }) {
  return { code, details, ends, answered: answer !== undefined };
}

const calls = {
  async raw() {
    const seen = await invoke(request('line', [1, 2, 3, 4, 5, 6], { id: 'grün' }));
    const { id, model_version: version, outputs } = seen.answer;
    return { code: seen.code, id, version, shape: outputs[0].shape, numbers: floats(seen.answer), ends: seen.ends };
  },

  async typed() {
    const tensor = { name: 'x', datatype: 'FP32', shape: [1, 3], contents: { fp32_contents: [1, 2, 3] } };
    const parameters = { binary_data_output: { bool_param: false } };
    const seen = await invoke({ model_name: 'line', inputs: [tensor], parameters });
    return seen.answer.outputs[0].contents.fp32_contents;
  },

  async texts() {
    const texts = ['', 'grün', 'a'.repeat(300)].map((text) => Buffer.from(text));
    const tensor = { name: 'x', datatype: 'BYTES', shape: [1, 3], contents: { bytes_contents: texts } };
    const parameters = { binary_data_output: { bool_param: false } };
    const seen = await invoke({ model_name: 'texts', inputs: [tensor], parameters });
    return seen.answer.outputs[0].contents.bytes_contents.map((text) => text.toString());
  },

  async together() {
    const own = Array.from({ length: 500 }, (_, index) => index);
    const all = await Promise.all(own.map((n) => invoke(request('line', [n, n + 0.5, -n], { id: String(n) }))));
    const right = (seen, n) => seen.answer.id === String(n) && `${floats(seen.answer)}` === `${[2 * n, 2 * n + 1, -2 * n]}`;
    return all.filter(right).length;
  },

  async refused() {
    return {
      unknown: refusal(await invoke(request('50% off\n', [1, 2, 3]))),
      shape: refusal(await invoke(request('line', [1, 2, 3], { inputs: [{ name: 'x', datatype: 'FP32', shape: [3] }] }))),
      classification: refusal(
        await invoke(
          request('line', [1, 2, 3], { outputs: [{ name: 'y', parameters: { classification: { int64_param: 1 } } }] }),
        ),
      ),
      method: refusal(await bare('TraceSetting', Buffer.alloc(0))),
      malformed: refusal(await bare('ModelInfer', Buffer.from([255, 255, 255]))),
    };
  },

  async metadata() {
    const metadata = new grpc.Metadata();
    metadata.add('x-text', 'one');
    metadata.add('x-text', 'two');
    metadata.add('x-some-bin', Buffer.from([0, 255, 1]));
    metadata.add('traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01');
    metadata.add('x-long', 'v'.repeat(3000));
    const seen = await invoke(request('line', [1, 2, 3]), { metadata });
    return { code: seen.code, numbers: floats(seen.answer), headers: seen.headers, trailers: seen.trailers };
  },

  async deadline() {
    const options = { deadline: Date.now() + 100 };
    const late = refusal(await invoke(request('slow', [2, 2, 2]), { options }));
    const over = refusal(await invoke(request('line', [1, 2, 3]), { options: { deadline: Date.now() - 1000 } }));
    return { late: late.code, over: over.code, after: floats((await invoke(request('slow', [1, 1, 1]))).answer) };
  },

  async cancelled() {
    const seen = await invoke(request('slow', [2, 2, 2]), { begun: (call) => setImmediate(() => call.cancel()) });
    return { ...refusal(seen), after: floats((await invoke(request('slow', [1, 1, 1]))).answer) };
  },

  async watched() {
    return new Promise((resolve) => {
      const seen = [];
      const watch = watcher.Watch({ service: '' });
      watch.on('data', (message) => {
        seen.push(message.status);
        watch.cancel();
      });
      watch.on('error', (error) => resolve({ seen, code: error.code }));
    });
  },

  async large() {
    const numbers = Float32Array.from({ length: 3 * 700000 }, (_, index) => index % 1000);
    const { answer } = await invoke(request('line', numbers));
    const raw = answer.raw_output_contents[0];
    return { bytes: raw.length, right: numbers.every((number, index) => raw.readFloatLE(4 * index) === 2 * number) };
  },

  async tooLarge() {
    const numbers = new Float32Array(3 * 1500000);
    const seen = refusal(await invoke(request('line', numbers)));
    return { ...seen, after: floats((await invoke(request('line', [1, 2, 3]))).answer) };
  },

  async compressed() {
    const gzip = { 'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip };
    const compressing = new service(address, credentials, gzip);
    const seen = await invoke(request('line', [1, 2, 3]), { on: compressing });
    compressing.close();
    return { code: seen.code, details: seen.details, numbers: seen.answer && floats(seen.answer) };
  },

  async streamed() {
    return new Promise((resolve) => {
      const seen = { answers: [] };
      const stream = client.ModelStreamInfer();
      stream.on('data', ({ error_message: error, infer_response: answer }) => {
        const final = answer.parameters.triton_final_response.bool_param;
        seen.answers.push(error ? [answer.id, error, final] : [answer.id, floats(answer), final]);
      });
      stream.on('status', (status) => resolve({ ...seen, code: status.code }));
      for (let n = 0; n < 100; n += 1) stream.write(request(n === 7 ? 'nobody' : 'line', [n, n, n], { id: String(n) }));
      stream.end();
    });
  },

  async counted() {
    const before = await invoke({ name: 'line' }, { method: 'ModelStatistics' });
    await Promise.all([1, 2, 3].map((n) => invoke(request('line', [n, n, n]))));
    const after = await invoke({ name: 'line' }, { method: 'ModelStatistics' });
    const count = ({ answer }) => answer.model_stats[0].inference_stats.success.count;
    return count(after) - count(before);
  },

  async connections() {
    const own = Array.from({ length: 20 }, (_, index) => index);
    const clients = own.map(() => new service(address, credentials, { 'grpc.use_local_subchannel_pool': 1 }));
    const all = await Promise.all(clients.map((on, n) => invoke(request('line', [n, n, n]), { on })));
    clients.forEach((on) => on.close());
    return all.map((seen) => floats(seen.answer)[0]);
  },
};

// Calls any method with any bytes.
function bare(name, bytes) {
  const same = (unchanged) => unchanged;
  const path = `/inference.GRPCInferenceService/${name}`;
  return invoke(bytes, { on: { bare: (...rest) => client.makeUnaryRequest(path, same, same, ...rest) }, method: 'bare' });
}

async function main() {
  const saw = {};
  for (const [name, call] of Object.entries(calls)) saw[name] = await call();
  client.close();
  watcher.close();
  console.log(JSON.stringify(saw));
}

main();
