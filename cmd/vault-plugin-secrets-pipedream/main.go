// Command vault-plugin-secrets-pipedream is the plugin that Vault starts. Run by hand it only tells what it is, and its
// version.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/plugin"

	pipedream "vault-plugin-secrets-pipedream"
)

const usage = `This is vault-plugin-secrets-pipedream %s, a secrets engine for HashiCorp Vault that
hands out the credentials of Pipedream connected accounts. Vault starts it; it does
nothing when run by hand. To have Vault start it, with this file in the server's
plugin_directory:

  vault plugin register -sha256=<its SHA-256> -version=%[1]s secret vault-plugin-secrets-pipedream
  vault secrets enable -path=pipedream vault-plugin-secrets-pipedream

Flags:
  -h, -help   print this and exit
  -version    print the version and exit
`

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		// Vault reads a plugin's stderr line by line and passes JSON on to its own log at the level written in it.
		logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true})
		logger.Error("plugin shutting down", "error", err)
		os.Exit(1)
	}
}

// run serves the plugin until Vault ends it, or prints what was asked for.
func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("vault-plugin-secrets-pipedream", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it, once
	version := flags.Bool("version", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		_, err = fmt.Fprintf(stdout, usage, pipedream.Version())
		return err
	case err != nil:
		return fmt.Errorf("%w; use -h for help", err)
	case *version:
		_, err = fmt.Fprintln(stdout, pipedream.Version())
		return err
	}
	// net/http logs what is left on a connection behind an answer, a token perhaps, and Vault would pass that on to its
	// own log. The engine itself never uses the standard logger.
	log.SetOutput(io.Discard)

	// Multiplexed: one process serves every mount, so the mounts share its memory but each has a backend of its own.
	// Vault 1.12 and later, which know that, bring their own TLS.
	return plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: pipedream.Factory})
}
