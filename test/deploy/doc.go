// Package deploy checks the files for operators, without a cluster, Docker or a
// network: manifests against the schemas of their APIs, configurations with the
// programs that read them, settings against the flags of the server, and the image by
// the steps that build it.
//
// schemas makes testdata/schemas.json.
package deploy
