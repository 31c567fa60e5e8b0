package httpapi

import (
	"net/http"

	"presence/internal/access"
)

// Refuse answers a request that access has refused.
func Refuse(w http.ResponseWriter, refusal *access.Refusal) {
	code := Unauthorized
	switch refusal.Kind {
	case access.Forbidden:
		code = Forbidden
	case access.Limited:
		code = RateLimited
	case access.Unauthorized:
	}
	Problem(w, code, refusal.Detail)
}
