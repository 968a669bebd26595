"""Calls an API again and again with the token of a connected account. It has the token from Vault, by way of hvac, reads it
again before the lease ends, and has it replaced when the API refuses it.

It needs VAULT_ADDR and VAULT_TOKEN in its environment, and a policy with

    path "pipedream/creds/apn_XehyZPr" { capabilities = ["read"] }
    path "pipedream/refresh/apn_XehyZPr" { capabilities = ["update"] }
"""

import logging
import os
import time
import urllib.error
import urllib.request

import hvac
import requests

ACCOUNT = "apn_XehyZPr"
API = "https://api.github.com/user"


class Refused(Exception):
    """The API did not take the token."""


class Tokens:
    """Keeps the token that Vault handed out last. Where threads share one, guard it with a lock."""

    def __init__(self, vault):
        self.vault = vault
        self.token = None
        self.again = 0.0  # when to read again
        self.end = 0.0  # of the lease

    def get(self):
        """Returns a token that is good for now."""
        if time.monotonic() < self.again:
            return self.token
        try:
            self.read()
        except (hvac.exceptions.VaultError, requests.RequestException) as error:
            if time.monotonic() >= self.end:
                raise
            logging.warning("going on with the token there is: %s", error)
            self.again = time.monotonic() + 1
        return self.token

    def replace(self):
        """Has the engine fetch the token anew, for one that was refused before its end."""
        self.vault.write(f"pipedream/refresh/{ACCOUNT}")
        self.read()
        return self.token

    def read(self):
        now = time.monotonic()
        # An unknown path is None with hvac. The engine answers an unknown account with an error.
        secret = self.vault.read(f"pipedream/creds/{ACCOUNT}")
        lease = secret["lease_duration"]
        self.token = secret["data"]["oauth_access_token"]
        self.again, self.end = now + 0.8 * lease, now + lease


def use(token):
    request = urllib.request.Request(API, headers={"Authorization": f"Bearer {token}"})
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise Refused("the API refuses the token") from error
        raise


def call(tokens):
    """Does the work once. When the API refuses the token it tries once more, with another."""
    try:
        use(tokens.get())
    except Refused:
        use(tokens.replace())


def main():
    vault = hvac.Client(url=os.environ["VAULT_ADDR"], token=os.environ["VAULT_TOKEN"])
    tokens = Tokens(vault)
    while True:
        wait = 1
        try:
            call(tokens)
        except (Refused, hvac.exceptions.VaultError, OSError) as error:  # OSError: those of requests and urllib
            logging.error("%s", error)
            wait = 10
        time.sleep(wait)


if __name__ == "__main__":
    main()
