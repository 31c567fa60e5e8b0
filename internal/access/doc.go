// Package access decides what the sender of a request may do. [Access.Grant] turns the
// credentials of the request into a [Grant], which answers all questions about rights.
//
// There are three kinds of senders. A backend has an API key: a line of a file gives the
// key its rooms and rights. A browser has a member token (RFC 7519) that a backend or
// another issuer has signed, with a shared secret or with a private key whose public half
// is in a [KeySet]: it speaks for one user until it expires. Everybody else is anonymous,
// and may observe public rooms.
//
// Bad credentials are refused even where none are needed, since their sender believes to
// have rights. Keys, secrets and key sets can be replaced while the server runs. No key
// or token is ever logged.
package access
