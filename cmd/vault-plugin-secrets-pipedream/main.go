// Command vault-plugin-secrets-pipedream is the plugin that Vault starts. Run by hand it does nothing of use, except
// to tell its version.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"

	pipedream "vault-plugin-secrets-pipedream"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		// Vault reads a plugin's stderr line by line and passes JSON on to its own log at the level written in it.
		logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true})
		logger.Error("plugin shutting down", "error", err)
		os.Exit(1)
	}
}

// run serves the plugin until Vault ends it, or prints the version when that is all that was asked.
func run(args []string) error {
	apiClientMeta := &api.PluginAPIClientMeta{}
	flags := apiClientMeta.FlagSet()
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if *version {
		fmt.Println(pipedream.Version())
		return nil
	}

	// Multiplexed: one process serves every mount, so the mounts share its memory but each has a backend of its own.
	return plugin.ServeMultiplex(&plugin.ServeOpts{
		BackendFactoryFunc: pipedream.Factory,
		// Vault 1.12 and later bring their own TLS; the provider is for the older ones.
		TLSProviderFunc: api.VaultPluginTLSProvider(apiClientMeta.GetTLSConfig()),
	})
}
