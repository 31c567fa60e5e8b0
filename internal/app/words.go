package app

import (
	"net/http"

	"github.com/livetemplate/livetemplate"

	"presence/internal/controller"
	"presence/templates"
)

// ownWords replaces the errors of page, since a library shows its errors to visitors.
func (a *App) ownWords(page http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if livetemplate.WSIsUpgrade(r) {
			page.ServeHTTP(w, r) // takes over the connection
			return
		}
		muted := &mutedWriter{ResponseWriter: w}
		page.ServeHTTP(muted, r)
		switch {
		case muted.status >= http.StatusInternalServerError:
			a.notice(w, muted.status, templates.Notice{Title: "Something went wrong", Text: "Please try again."})
		case muted.status != 0:
			a.badForm(w, controller.ErrForm)
		}
	})
}

// mutedWriter passes a success on. Of a failure it keeps only the status.
type mutedWriter struct {
	http.ResponseWriter
	status int // of a failure, or 0
}

// WriteHeader passes on the status of a success.
func (w *mutedWriter) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		w.status = status
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write passes on the body of a success.
func (w *mutedWriter) Write(b []byte) (int, error) {
	if w.status != 0 {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}
