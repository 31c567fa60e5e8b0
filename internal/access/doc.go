// Package access decides what the sender of a request may do. [Access.Grant] turns the
// credentials of the request into a [Grant], which answers all questions about rights.
//
// There are three kinds of senders. A backend has an API key: a line of a file gives the
// key its rooms and rights. A browser has a member token (RFC 7519), which speaks for one
// user until it expires. A backend or another issuer has signed the token, with a shared
// secret or with a private key; the public key is in a [KeySet]. All other senders are
// anonymous, and may observe public rooms.
//
// Bad credentials are refused even where none are needed, since their sender believes
// that they are valid. Keys, secrets and key sets can be replaced while the server runs.
// No key or token is ever logged.
package access
