// Pages that are opened from a disk may not start workers; the search then runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inner = (this.inner = frame.contentWindow)
      const load = (address) =>
        new Promise((done, failed) => {
          const script = inner.document.createElement("script")
          script.src = address
          script.onload = done
          script.onerror = () => failed(new Error(`cannot load ${address}`))
          inner.document.head.append(script)
        })
      inner.importScripts = async (...addresses) => {
        for (const address of addresses) await load(address)
      }
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      this.ready = load(new URL(url, location.href).href)
    }

    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() {
      this.inner.frameElement.remove()
    }
  }
}
