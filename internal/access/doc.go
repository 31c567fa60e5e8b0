// Package access knows who asks, and what that one may do. [Access.Grant] turns the
// credentials of a request into a [Grant]; all questions are asked of that.
//
// There are three who ask. A backend has an API key, a line of a file with rooms and
// rights. A browser has a member token that a backend has signed (RFC 7519): it
// speaks for one user until it expires. Everybody else is anonymous, and may observe
// rooms that are public.
//
// Credentials that are no good are refused, also where none are needed: who sends
// them believes to have rights. Keys and tokens are written nowhere.
package access
