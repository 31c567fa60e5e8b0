// Package deploy checks what operators are given, without a cluster, an engine
// or a network: manifests against the schemas of their APIs, configurations with
// the programs that read them, settings against those the server has, and the
// image by the steps that build it.
//
// schemas makes testdata/schemas.json.
package deploy
