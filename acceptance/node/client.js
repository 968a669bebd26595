// Uses the engine from Node through node-vault: it reads, follows a lease, passes parameters, lists, refreshes a token and
// handles errors. It exits with an error if any result is wrong.
//
// "make test-node" runs it. To run it by hand, set VAULT_ADDR, VAULT_TOKEN, MOUNT, ACCOUNT (whose tokens live for seconds)
// and NODE_PATH (where node-vault is).
'use strict';

const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');

const { MOUNT: mount, ACCOUNT: account } = process.env;
const vault = require('node-vault')(); // takes VAULT_ADDR and VAULT_TOKEN from the environment

// follow reads until it was handed three tokens, and in between waits for most of each lease.
async function follow() {
  const tokens = new Set();
  let reads = 0;
  for (; tokens.size < 3; reads++) {
    assert.ok(reads < 12, `${reads} reads for ${tokens.size} tokens`);
    const secret = await vault.read(`${mount}/creds/${account}`);
    assert.equal(secret.renewable, false);
    assert.ok(secret.lease_id.startsWith(`${mount}/creds/${account}/`));
    assert.ok(secret.lease_duration >= 1);
    for (const [name, value] of Object.entries(secret.data)) {
      assert.equal(typeof value, 'string', name);
    }
    const end = Date.parse(secret.data.expires_at);
    assert.ok(Date.now() < end + 1000, `a token that ended at ${secret.data.expires_at}`);
    tokens.add(secret.data.oauth_access_token);

    const lease = await vault.write('sys/leases/lookup', { lease_id: secret.lease_id });
    assert.ok(lease.data.ttl <= secret.lease_duration);
    await sleep(secret.lease_duration * 800);
  }
  console.log(`${tokens.size} tokens, ${reads} reads`);
}

async function passParameters() {
  const inQuery = await vault.read(`${mount}/creds/${account}?min_ttl=1s`);
  assert.equal(inQuery.warnings, null);
  const inBody = await vault.write(`${mount}/creds/${account}`, { min_ttl: '1s' });
  assert.equal(inBody.warnings, null);
  assert.ok(inBody.data.oauth_access_token);
  await assert.rejects(vault.read(`${mount}/creds/${account}?min_ttl=soon`), refusal(400, 'min_ttl'));
  // node-vault's update is a PATCH, which is another right than Vault's update: it is write that passes parameters.
  await assert.rejects(vault.update(`${mount}/creds/${account}`, {}), refusal(403, 'permission denied'));
}

async function readWithoutALease() {
  const secret = await vault.read(`${mount}/static-creds/${account}`);
  assert.equal(secret.lease_id, '');
  assert.equal(secret.lease_duration, 0);
  assert.ok(Number.isInteger(secret.data.ttl) && secret.data.ttl >= 1);
  assert.ok(Number.isInteger(secret.data.rotation_period) && secret.data.rotation_period >= 1);
  assert.ok(Date.parse(secret.data.last_vault_rotation) <= Date.now());
}

async function lookAround() {
  const accounts = await vault.list(`${mount}/accounts`);
  assert.deepEqual(accounts.data.keys, [account]);
  assert.equal(accounts.data.key_info[account].healthy, true);
  const refreshed = await vault.write(`${mount}/refresh/${account}`, {});
  assert.equal(typeof refreshed.data.changed, 'boolean');
  await assert.rejects(vault.read(`${mount}/creds/apn_nobody`), refusal(400, 'apn_nobody', `vault list ${mount}/accounts`));
}

// refusal checks an error of node-vault: its code, and that its text has all of the words.
function refusal(code, ...words) {
  return (err) => {
    assert.equal(err.response.statusCode, code, err.message);
    for (const word of words) {
      assert.ok(err.message.includes(word), `${err.message} lacks ${word}`);
    }
    return true;
  };
}

(async () => {
  for (const step of [passParameters, readWithoutALease, lookAround, follow]) {
    await step();
    console.log(`${step.name}: ok`);
  }
})().catch((err) => {
  console.error(err);
  process.exitCode = 1;
});
