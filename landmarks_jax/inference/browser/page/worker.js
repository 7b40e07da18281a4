/**
 * A worker that runs the networks in ONNX Runtime Web, off the main thread.
 *
 * Receives `{models, threads}` once, the ONNX files by name, and replies `{ready: true}`; then
 * receives `{id, name, type, data, dims}`, the input of a network, and replies `{id, outputs}`.
 * Errors are replied as `{id, error}`, without an id for the models.
 */

import * as ort from './runtime/ort.js';

/** By name. @type {Object<string, ort.InferenceSession>} */
const sessions = {};

/** @param {{models: Object<string, ArrayBuffer>, threads: number}} message */
async function load({ models, threads }) {
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = {
    mjs: new URL('./runtime/ort-wasm.js', import.meta.url).href,
    wasm: new URL('./runtime/ort-wasm.wasm', import.meta.url).href,
  };
  for (const [name, model] of Object.entries(models)) {
    sessions[name] = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
  }
  return { ready: true };
}

/** @param {{id: number, name: string, type: string, data: any, dims: number[]}} message */
async function run({ id, name, type, data, dims }) {
  const session = sessions[name];
  const results = await session.run({ [session.inputNames[0]]: new ort.Tensor(type, data, dims) });
  const outputs = {};
  for (const [output, tensor] of Object.entries(results)) {
    outputs[output] = tensor.data;
  }
  return { id, outputs };
}

self.addEventListener('message', async ({ data }) => {
  try {
    self.postMessage(await (data.models ? load(data) : run(data)));
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error) });
  }
});
