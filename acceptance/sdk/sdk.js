// Calls Pipedream's official SDK for a Go test. Each line of standard input is a call in JSON, and each line of standard
// output is its result. A client lives from the first call that names it to the end of the program, so it keeps its token.
'use strict';

const readline = require('node:readline');
const sdk = require('@pipedream/sdk');
const browser = require('@pipedream/sdk/browser');

const clients = new Map();

// newClient returns a client of the workspace, or with a Connect token the client for browsers, which runs here as well.
function newClient({ connectToken, ...options }) {
  if (!connectToken) {
    return new sdk.PipedreamClient(options);
  }
  const tokenCallback = async () => ({ token: connectToken, expiresAt: new Date(Date.now() + 60000), connectLinkUrl: '' });
  return browser.createFrontendClient({ ...options, tokenCallback });
}

function clientOf({ client, options }) {
  if (!clients.has(client)) {
    clients.set(client, newClient(options));
  }
  return clients.get(client);
}

// perform does what a call says: "tokens.create" is the SDK's own name for it, with the arguments as the SDK takes them.
async function perform(call) {
  const client = clientOf(call);
  const [resource, method] = call.method.split('.');
  if (!method) {
    return client[resource];
  }
  const result = await client[resource][method](...call.args);
  if (!call.iterate) {
    // Of a page what the SDK made of the answer, not how it gets the next one.
    return result?.response ?? result;
  }
  const items = [];
  for await (const item of result) {
    items.push(item);
  }
  return items;
}

// plain shows what JSON would hide: that a time was decoded.
function plain(value) {
  if (value instanceof Date) {
    return { date: value.toISOString() };
  }
  if (Array.isArray(value)) {
    return value.map(plain);
  }
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, plain(member)]));
  }
  return value;
}

// describe tells which of the SDK's classes an error is of, and what it carries.
function describe(err) {
  const isErrorClass = (it) => typeof it === 'function' && it.prototype instanceof Error;
  const classes = Object.keys(sdk).filter((name) => isErrorClass(sdk[name]) && err instanceof sdk[name]);
  if (classes.length === 0) {
    return { classes, message: String(err) };
  }
  return {
    classes: classes.sort(),
    message: err.message,
    status: err.statusCode,
    body: err.body,
    header: Object.fromEntries(err.rawResponse?.headers?.entries() ?? []),
  };
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer;
    try {
      answer = { value: plain(await perform(JSON.parse(line))) };
    } catch (err) {
      answer = { error: describe(err) };
    }
    process.stdout.write(JSON.stringify(answer) + '\n');
  }
  process.exit(); // the SDK leaves timers behind where a connection was cut
})();
