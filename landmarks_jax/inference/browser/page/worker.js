/**
 * The detector's own thread: ONNX Runtime Web, kept off the thread that draws.
 *
 * Takes `{model, threads}` once and answers `{ready: true}`; then takes `{id, view, size}` and
 * answers `{id, outputs}`. What goes wrong is answered as `{id, error}`, without id for the model.
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
  const found = await session.run({ [session.inputNames[0]]: views });
  const outputs = {};
  for (const [name, tensor] of Object.entries(found)) {
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
