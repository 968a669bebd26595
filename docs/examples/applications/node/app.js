// Calls an API again and again with the token of a connected account. It has the token from Vault, by way of node-vault,
// reads it again before the lease ends, and has it replaced when the API refuses it.
//
// It needs VAULT_ADDR and VAULT_TOKEN in its environment, and a policy with
//   path "pipedream/creds/apn_XehyZPr" { capabilities = ["read"] }
//   path "pipedream/refresh/apn_XehyZPr" { capabilities = ["update"] }
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');
const vault = require('node-vault')(); // takes VAULT_ADDR and VAULT_TOKEN from the environment

const ACCOUNT = 'apn_XehyZPr';
const API = 'https://api.github.com/user';

let current; // the token that Vault handed out last, when to read again, and when its lease ends

// token returns one that is good for now.
async function token() {
  if (current && Date.now() < current.again) {
    return current.token;
  }
  try {
    await read();
  } catch (err) {
    if (!current || Date.now() >= current.end) {
      throw err;
    }
    console.warn(`going on with the token there is: ${err.message}`);
    current.again = Date.now() + 1000;
  }
  return current.token;
}

// replace has the engine fetch the token anew, for one that was refused before its end.
async function replace() {
  await vault.write(`pipedream/refresh/${ACCOUNT}`, {});
  await read();
  return current.token;
}

async function read() {
  const now = Date.now();
  const secret = await vault.read(`pipedream/creds/${ACCOUNT}`);
  const lease = secret.lease_duration * 1000;
  current = { token: secret.data.oauth_access_token, again: now + 0.8 * lease, end: now + lease };
}

// use does the work with a token, and tells whether the API took it.
async function use(bearer) {
  const answer = await fetch(API, { headers: { Authorization: `Bearer ${bearer}` } });
  await answer.arrayBuffer();
  if (answer.status === 401) {
    return false;
  }
  if (!answer.ok) {
    throw new Error(`the API answers ${answer.status}`);
  }
  return true;
}

// call does the work once. When the API refuses the token it tries once more, with another.
async function call() {
  if (!(await use(await token())) && !(await use(await replace()))) {
    throw new Error('the API refuses the token');
  }
}

(async () => {
  for (;;) {
    let wait = 1000;
    try {
      await call();
    } catch (err) {
      console.error(err.message);
      wait = 10000;
    }
    await sleep(wait);
  }
})();
