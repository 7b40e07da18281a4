/** The camera as a stream of frames. */

export class Camera {
  /** @type {?MediaStream} */
  #stream = null;
  /** Counts starts and stops: a camera that opens too late is closed. */
  #session = 0;
  #video = document.createElement('video');

  constructor() {
    this.#video.muted = true;
    this.#video.playsInline = true;
  }

  /** Whether a camera is open. */
  get on() {
    return this.#stream !== null;
  }

  /** The device that is open, or ''. */
  get device() {
    return this.#stream?.getVideoTracks()[0]?.getSettings().deviceId ?? '';
  }

  /**
   * Opens a camera and closes the previous one. Stays closed if `stop` or another `start` is called
   * before the browser has opened it.
   * @param {string} device its id, or '' for the browser's default.
   * @param {() => void} ended called when the camera stops by itself, for example when it is unplugged.
   * @throws {Error} with a message for the user.
   */
  async start(device, ended) {
    this.stop();
    const session = this.#session;
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error('The camera needs a page served over https or from this machine.');
    }
    const choice = device ? { deviceId: { exact: device } } : { facingMode: 'user' };
    const video = { ...choice, width: { ideal: 640 }, height: { ideal: 480 } };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video });
    } catch (error) {
      throw new Error(reason(error));
    }
    if (session !== this.#session) {
      close(stream);
      return;
    }
    this.#stream = stream;
    stream.getVideoTracks()[0].addEventListener('ended', ended);
    this.#video.srcObject = stream;
    await this.#video.play();
  }

  /** Closes the camera. */
  stop() {
    this.#session++;
    if (this.#stream) {
      close(this.#stream);
      this.#stream = null;
    }
    this.#video.srcObject = null;
  }

  /**
   * The next frame.
   * @returns {Promise<?HTMLVideoElement>} null when the camera was closed.
   */
  async frame() {
    await new Promise((resolve) => {
      // A closed camera has no next frame: stop waiting after a while.
      setTimeout(resolve, 500);
      if (this.#video.requestVideoFrameCallback) {
        this.#video.requestVideoFrameCallback(resolve);
      } else {
        requestAnimationFrame(resolve);
      }
    });
    return this.on && this.#video.videoWidth ? this.#video : null;
  }

  /** The available cameras; they have names once the user has allowed one. */
  static async devices() {
    const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
    return all.filter(({ kind, deviceId }) => kind === 'videoinput' && deviceId);
  }
}

/** Stops a camera. */
function close(/** @type {MediaStream} */ stream) {
  stream.getTracks().forEach((track) => track.stop());
}

/** Why a camera could not be opened. */
function reason(error) {
  switch (error.name) {
    case 'NotAllowedError':
      return 'Access to the camera was denied. Allow it for this page, then start it again.';
    case 'NotFoundError':
    case 'OverconstrainedError':
      return 'No camera was found.';
    default:
      return `The camera cannot be opened: ${error.message || error.name}. Is it in use elsewhere?`;
  }
}
