package app

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// version is that of a release, for a build outside of a repository:
// -ldflags "-X presence/internal/app.version=1.2.3".
var version string

// Build describes this program: its version, its commit and the version of Go.
type Build struct {
	Version  string // of a release, or what Go makes of the commit; "unknown" without either
	Revision string // commit, with "+dirty" if files were changed since; "unknown" outside of a repository
	Go       string // such as "go1.26.0"
}

// BuildInfo describes this program.
func BuildInfo() Build {
	const unknown = "unknown"
	b := Build{Version: version, Revision: unknown, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	dirty := ""
	for _, setting := range info.Settings {
		switch {
		case setting.Key == "vcs.revision":
			b.Revision = setting.Value
		case setting.Key == "vcs.modified" && setting.Value == "true":
			dirty = "+dirty"
		}
	}
	if b.Revision != unknown {
		b.Revision += dirty
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = unknown
	}
	return b
}

// String is one line, such as "presence 1.2.3, revision 4f2e1c0, go1.26.0".
func (b Build) String() string {
	return "presence " + b.Version + ", revision " + b.Revision + ", " + b.Go
}

// register makes a metric with the value 1, and the fields of b as labels.
func (b Build) register(reg prometheus.Registerer) {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "presence_build_info",
		Help:        "1, with the version, the commit and the Go release that this program was made from.",
		ConstLabels: prometheus.Labels{"version": b.Version, "revision": b.Revision, "go_version": b.Go},
	})
	info.Set(1)
	reg.MustRegister(info)
}
