// Command secrets-store-csi-driver does what the Secrets Store CSI Driver does each time it mounts or rotates a volume: it
// calls a provider and writes the files that the provider returns. It uses the driver's own client and file writer, and
// needs neither a kubelet nor a mount.
//
//	secrets-store-csi-driver <socket of the provider> <target directory> < attributes.json
//
// The attributes are the parameters of a SecretProviderClass, and what kubelet adds about the pod.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"sigs.k8s.io/secrets-store-csi-driver/pkg/util/fileutil"
	"sigs.k8s.io/secrets-store-csi-driver/provider/v1alpha1"
)

const (
	// filePermission is what the driver gives every file.
	filePermission os.FileMode = 0o644
	// timeout is generous, because no test depends on it.
	timeout = 2 * time.Minute
)

func main() {
	if err := run(os.Args[1:], os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string, input io.Reader) error {
	if len(arguments) != 2 {
		return errors.New("usage: secrets-store-csi-driver <socket of the provider> <target directory> < attributes.json")
	}
	socket, target := arguments[0], arguments[1]
	attributes, err := io.ReadAll(input)
	if err != nil {
		return err
	}
	files, err := mount(socket, target, string(attributes))
	if err != nil {
		return err
	}
	return fileutil.WritePayloads(target, files)
}

// mount asks the provider for the files of a volume.
func mount(socket, target, attributes string) (files []*v1alpha1.File, err error) {
	permission, err := json.Marshal(filePermission)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials())) // the driver's connection is not encrypted either
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	answer, err := v1alpha1.NewCSIDriverProviderClient(conn).Mount(ctx, &v1alpha1.MountRequest{
		Attributes: attributes,
		Secrets:    "null", // for a volume that names no Secret
		TargetPath: target,
		Permission: string(permission),
	})
	if err != nil {
		return nil, err
	}
	if code := answer.GetError().GetCode(); code != "" {
		return nil, fmt.Errorf("the provider answered with error code %s", code)
	}
	return answer.GetFiles(), nil
}
