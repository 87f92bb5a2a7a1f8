// What a stranger's page does to a server on this machine, in the browser of the server's user. Each
// attempt is an order: it wants a name recorded. Whether it was, the test asks the server.
async (address) => {
  const { base, order, names, socket } = address;
  const body = (name) => JSON.stringify({ name, value: "x" });
  const attempts = {
    json: (name) =>
      fetch(base + order, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: body(name),
        credentials: "include",
      }),
    // Without cookies: a server that asks for no login wants none.
    anonymous: (name) =>
      fetch(base + order, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: body(name),
        credentials: "omit",
      }),
    text: (name) =>
      fetch(base + order, {
        method: "POST",
        mode: "no-cors",
        headers: { "Content-Type": "text/plain" },
        body: body(name),
        credentials: "include",
      }),
    // Bytes without a type are sent without one, and a server may guess.
    bytes: (name) =>
      fetch(base + order, {
        method: "POST",
        mode: "no-cors",
        body: new TextEncoder().encode(body(name)),
        credentials: "include",
      }),
    beacon: async (name) => navigator.sendBeacon(base + order, new Blob([body(name)])),
    form: (name) =>
      new Promise((done) => {
        const frame = document.createElement("iframe");
        frame.name = `frame-${name}`;
        const form = document.createElement("form");
        Object.assign(form, {
          method: "POST",
          action: base + order,
          enctype: "text/plain",
          target: frame.name,
        });
        const field = document.createElement("input");
        const [before, after] = body(name).split('"x"');
        field.name = `${before}"`;
        field.value = `x"${after}`;
        form.append(field);
        document.body.append(frame, form);
        form.submit();
        setTimeout(done, 1500);
      }),
    socket: (name) =>
      new Promise((done) => {
        const opened = new WebSocket(base.replace("http", "ws") + socket, ["prefect"]);
        const event = {
          occurred: new Date().toISOString(),
          event: name,
          resource: { "prefect.resource.id": name },
          id: crypto.randomUUID?.() ?? "00000000-0000-4000-8000-000000000000",
        };
        opened.onopen = () => {
          opened.send(JSON.stringify({ type: "auth", token: null }));
          opened.send(JSON.stringify(event));
          setTimeout(done, 1500);
        };
        opened.onerror = done;
      }),
  };
  const readable = [];
  for (const [kind, name] of Object.entries(names)) {
    try {
      const answer = await attempts[kind](name);
      if (answer instanceof Response && answer.ok) readable.push(kind);
    } catch {
      // refused, as it has to be
    }
  }
  return readable;
}
