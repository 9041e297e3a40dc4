// Virtual users of k6 (grpc-go) that check every answer; ADDRESS and PROTOS come from the environment.
import { check } from 'k6';
import encoding from 'k6/encoding';
import grpc from 'k6/net/grpc';
import exec from 'k6/execution';

const INFER = 'inference.GRPCInferenceService/ModelInfer';
const byProto = new grpc.Client();
byProto.load([__ENV.PROTOS], 'inference.proto');
const byReflection = new grpc.Client();

export const options = {
  scenarios: {
    proto: { executor: 'shared-iterations', vus: 8, iterations: 2000, exec: 'proto' },
    reflection: { executor: 'shared-iterations', vus: 2, iterations: 200, exec: 'reflection' },
  },
  thresholds: { checks: ['rate==1'] },
};

function request(model, numbers, id) {
  const tensor = { name: 'x', datatype: 'FP32', shape: [numbers.length / 3, 3], contents: { fp32_contents: numbers } };
  return { model_name: model, id: id, inputs: [tensor] };
}

function raw(answer) {
  return Array.from(new Float32Array(encoding.b64decode(answer.message.rawOutputContents[0])));
}

function call(client) {
  const own = exec.scenario.iterationInTest;
  const numbers = Array.from({ length: 3 * (1 + (own % 5)) }, (_, index) => own + index / 4);
  const answer = client.invoke(INFER, request('line', numbers, String(own)));
  check(answer, {
    'a right request is answered': (a) => a.status === grpc.StatusOK,
    'the answer is of this request': (a) => a.message.id === String(own),
    'every number is doubled': (a) => JSON.stringify(raw(a)) === JSON.stringify(numbers.map((number) => 2 * number)),
  });
  if (own % 10 === 0) {
    check(client.invoke(INFER, request('nobody', numbers, '')), {
      'an unknown model is not found': (a) => a.status === grpc.StatusNotFound,
      'and the text says so': (a) => a.error.message === "model 'nobody' not found",
    });
  }
}

export function proto() {
  // A connection a user: connected once, in its first iteration.
  if (exec.vu.iterationInScenario === 0) byProto.connect(__ENV.ADDRESS, { plaintext: true });
  call(byProto);
}

export function reflection() {
  if (exec.vu.iterationInScenario === 0) byReflection.connect(__ENV.ADDRESS, { plaintext: true, reflect: true });
  call(byReflection);
}

export function handleSummary(data) {
  const checks = data.root_group.checks.map((one) => [one.name, one.passes, one.fails]);
  return { stdout: JSON.stringify({ checks: checks, iterations: data.metrics.iterations.values.count }) };
}
