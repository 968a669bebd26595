// Calls an app again and again as an external user, through Pipedream's proxy, with Pipedream's own SDK and Connect tokens
// from Vault.
//
// It needs VAULT_ADDR and VAULT_TOKEN in its environment, and a policy with
//   path "pipedream/static-creds/slack" { capabilities = ["read"] }
//   path "pipedream/refresh/slack" { capabilities = ["update"] }
'use strict';

const { setTimeout: sleep } = require('node:timers/promises');
const { createFrontendClient } = require('@pipedream/sdk/browser');

const ROLE = 'slack';
const APP = 'https://slack.com/api/auth.test';

async function vault(method, path) {
  const answer = await fetch(`${process.env.VAULT_ADDR}/v1/pipedream/${path}`, {
    method,
    headers: { 'X-Vault-Token': process.env.VAULT_TOKEN },
  });
  if (!answer.ok) {
    throw new Error(`Vault answers ${answer.status}: ${await answer.text()}`);
  }
  return (await answer.json()).data;
}

let secret; // what Vault handed out last
let client; // the SDK's client, which asks for the next token when the last one ends

async function read() {
  secret = await vault('GET', `static-creds/${ROLE}`);
  return { token: secret.connect_token, expiresAt: new Date(Date.now() + secret.ttl * 1000), connectLinkUrl: '' };
}

async function connect() {
  await read();
  client = createFrontendClient({
    baseUrl: secret.pipedream_api_url.replace(/\/v1$/, ''),
    projectId: secret.pipedream_project_id,
    projectEnvironment: secret.pipedream_environment,
    externalUserId: secret.pipedream_external_user_id,
    tokenCallback: read,
  });
}

const use = () => client.proxy.get({ url: APP, externalUserId: secret.pipedream_external_user_id, accountId: secret.pipedream_account_id });

// call does the work once. When the token or the account is gone, it tries once more, with what there is now.
async function call() {
  if (!client) {
    await connect();
  }
  try {
    await use();
  } catch (err) {
    if (err.statusCode !== 401 && err.statusCode !== 404) {
      throw err;
    }
    await vault('POST', `refresh/${ROLE}`);
    await connect();
    await use();
  }
}

(async () => {
  for (;;) {
    let wait = 1000;
    try {
      await call();
    } catch (err) {
      console.error(err.message);
      wait = 3000;
    }
    await sleep(wait);
  }
})();
