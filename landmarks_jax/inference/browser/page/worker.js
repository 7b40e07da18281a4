/**
 * A worker that runs the detector in ONNX Runtime Web, off the main thread.
 *
 * Receives `{model, threads}` once and replies `{ready: true}`; then receives `{id, view, size}`
 * and replies `{id, outputs}`. Errors are replied as `{id, error}`, without an id for the model.
 */

import * as ort from './runtime/ort.js';

/** @type {ort.InferenceSession} */
let session;

/** @param {{model: ArrayBuffer, threads: number}} message */
async function load({ model, threads }) {
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = {
    mjs: new URL('./runtime/ort-wasm.js', import.meta.url).href,
    wasm: new URL('./runtime/ort-wasm.wasm', import.meta.url).href,
  };
  session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
  return { ready: true };
}

/** @param {{id: number, view: Uint8Array, size: number}} message */
async function run({ id, view, size }) {
  const views = new ort.Tensor('uint8', view, [1, size, size, 3]);
  const results = await session.run({ [session.inputNames[0]]: views });
  const outputs = {};
  for (const [name, tensor] of Object.entries(results)) {
    outputs[name] = Array.from(tensor.data, Number);
  }
  return { id, outputs };
}

self.addEventListener('message', async ({ data }) => {
  try {
    self.postMessage(await (data.model ? load(data) : run(data)));
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error) });
  }
});
