package pipedream

import (
	"os"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
)

// cli is the command line program of the server that runs the plugin, for
// error texts and help that show commands.
var cli = cliOf(os.LookupEnv)

// cliOf tells the servers apart by the environment of the plugin's process.
// OpenBao sets BAO_VERSION and VAULT_VERSION there, and Vault sets only the
// latter (sdk/helper/pluginutil/run_config.go of both).
func cliOf(lookup func(string) (string, bool)) string {
	if _, ok := lookup("BAO_VERSION"); ok {
		return "bao"
	}
	return "vault"
}

// nameCLI makes the examples in help texts name the program.
func nameCLI(b *framework.Backend, program string) {
	name := func(help string) string { return strings.ReplaceAll(help, "$ vault ", "$ "+program+" ") }
	b.Help = name(b.Help)
	for _, path := range b.Paths {
		path.HelpDescription = name(path.HelpDescription)
	}
}
