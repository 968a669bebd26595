"""Calls an app again and again as an external user, through Pipedream's proxy, with a Connect token from Vault.

It needs VAULT_ADDR and VAULT_TOKEN in its environment, and a policy with

    path "pipedream/static-creds/slack" { capabilities = ["read"] }
    path "pipedream/refresh/slack" { capabilities = ["update"] }
"""

import base64
import json
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request

ROLE = "slack"
APP = "https://slack.com/api/auth.test"


def vault(method, path):
    request = urllib.request.Request(
        f"{os.environ['VAULT_ADDR']}/v1/pipedream/{path}", method=method, headers={"X-Vault-Token": os.environ["VAULT_TOKEN"]}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["data"]


class Proxy:
    """Keeps what Vault handed out last. Where threads share one, guard it with a lock."""

    def __init__(self):
        self.secret = None
        self.again = 0.0  # when to read again

    def read(self):
        now = time.monotonic()
        self.secret = vault("GET", f"static-creds/{ROLE}")
        self.again = now + self.secret["ttl"]

    def use(self):
        """Sends the request through the proxy, and returns the status of the answer."""
        s = self.secret
        url64 = base64.urlsafe_b64encode(APP.encode()).decode()
        query = urllib.parse.urlencode({"external_user_id": s["pipedream_external_user_id"], "account_id": s["pipedream_account_id"]})
        request = urllib.request.Request(
            f"{s['pipedream_api_url']}/connect/{s['pipedream_project_id']}/proxy/{url64}?{query}",
            headers={"Authorization": f"Bearer {s['connect_token']}", "x-pd-environment": s["pipedream_environment"]},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def call(self):
        """Does the work once. When the token or the account is gone, it tries once more, with what there is now."""
        if time.monotonic() >= self.again:
            self.read()
        status = self.use()
        if status in (401, 404):
            vault("POST", f"refresh/{ROLE}")
            self.read()
            status = self.use()
        if status != 200:
            raise RuntimeError(f"the proxy answers {status}")


proxy = Proxy()
while True:
    wait = 1
    try:
        proxy.call()
    except (OSError, RuntimeError) as err:
        logging.warning("%s", err)
        wait = 3
    time.sleep(wait)
