package acceptance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const pluginName = "vault-plugin-secrets-pipedream"

// These are the programs under test, as absolute paths without symbolic links, which Vault does not allow in a plugin
// directory.
var (
	vaultBin      string
	pluginBin     string
	pluginVersion string
)

// onOpenBao reports whether the server under test is OpenBao, a fork of Vault that differs in a few ways.
var onOpenBao bool

// cliName is the command that the engine's texts name: the server's own.
var cliName = "vault"

// takesDuplicateKeys reports whether the server accepts JSON in which a key occurs twice. OpenBao does, and so did Vault
// before 1.20.3. The name in the path then wins over both.
var takesDuplicateKeys bool

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if err := locateBinaries(); err != nil {
		// This is not a skip: a suite that passes because it had nothing to test proves nothing.
		fmt.Fprintf(os.Stderr, "%v\nTo build what these tests need and run them: make test-acceptance\n", err)
		return 1
	}
	forgetEnvironment()
	code := m.Run()
	if err := stopSharedVault(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func locateBinaries() error {
	var vaultErr, pluginErr error
	vaultBin, vaultErr = locate("VAULT_BIN", filepath.Join("..", "bin", "vault"))
	pluginBin, pluginErr = locate("PLUGIN_BIN", filepath.Join("..", "bin", "race", pluginName))
	if err := errors.Join(vaultErr, pluginErr); err != nil {
		return err
	}
	version, err := outputOf(pluginBin, "-version")
	if err != nil {
		return err
	}
	pluginVersion = version
	server, err := outputOf(vaultBin, "version")
	if onOpenBao = strings.HasPrefix(server, "OpenBao "); onOpenBao {
		cliName = "bao"
	}
	takesDuplicateKeys = onOpenBao || vaultBefore(server, 20, 3)
	return err
}

// vaultBefore tells whether what "vault version" said is a Vault before 1.minor.patch.
func vaultBefore(server string, minor, patch int) bool {
	var major, itsMinor, itsPatch int
	if n, _ := fmt.Sscanf(server, "Vault v%d.%d.%d", &major, &itsMinor, &itsPatch); n != 3 {
		return false
	}
	return major < 1 || major == 1 && (itsMinor < minor || itsMinor == minor && itsPatch < patch)
}

func outputOf(program, argument string) (string, error) {
	output, err := exec.CommandContext(context.Background(), program, argument).Output() //nolint:gosec // a program under test
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", program, argument, err)
	}
	return strings.TrimSpace(string(output)), nil
}

func locate(variable, fallback string) (string, error) {
	path := os.Getenv(variable)
	if path == "" {
		path = fallback
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	resolved, err := filepath.EvalSymlinks(absolute)
	if err != nil {
		return "", fmt.Errorf("%s: %w", variable, err)
	}
	return resolved, nil
}

// forgetEnvironment removes the variables that Vault's client reads, such as the address and token of the developer.
func forgetEnvironment() {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "VAULT_") {
			_ = os.Unsetenv(name) // fails only for an invalid name
		}
	}
}
