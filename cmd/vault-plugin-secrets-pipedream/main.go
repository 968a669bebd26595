// Command vault-plugin-secrets-pipedream is the plugin that Vault starts. When run by hand, it only prints its version
// or its help.
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
hands out the credentials of Pipedream connected accounts. Vault starts this plugin.
It does nothing when run by hand. Put it into the server's plugin_directory, then:

  vault plugin register -sha256=<its SHA-256> -version=%[1]s secret vault-plugin-secrets-pipedream
  vault secrets enable -path=pipedream vault-plugin-secrets-pipedream

Flags:
  -h, -help   print this and exit
  -version    print the version and exit
`

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		// Vault reads a plugin's stderr line by line. It copies JSON to its own log at the level given there.
		logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, JSONFormat: true})
		logger.Error("plugin shutting down", "error", err)
		os.Exit(1)
	}
}

// run serves the plugin until Vault stops it, or prints the help or the version.
func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("vault-plugin-secrets-pipedream", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the returned error already says it
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
	// net/http logs what follows an answer on a connection, which might be a token, and Vault would copy that to its
	// own log. The engine itself never uses the standard logger.
	log.SetOutput(io.Discard)

	// One process serves every mount. The mounts share its memory, but each has its own backend. Vault 1.12 and later
	// support this, and provide the TLS connection.
	return plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: pipedream.Factory})
}
