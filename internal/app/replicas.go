package app

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"presence/internal/replica"
)

// self is what other replicas are told of this one, with the settings that all must share.
func (a *App) self() replica.Self {
	return replica.Self{
		Name: a.name, Version: BuildInfo().Version, Since: time.Now().UTC().Truncate(time.Second),
		Settings: map[string]string{
			"heartbeat-interval":   a.config.HeartbeatInterval.String(),
			"member-ttl":           a.config.MemberTTL.String(),
			"leave-grace":          a.config.LeaveGrace.String(),
			"max-rooms":            strconv.Itoa(a.config.MaxRooms),
			"max-members-per-room": strconv.Itoa(a.config.MaxMembersPerRoom),
		},
	}
}

// listReplicas tells operators which replicas share the Redis.
func (a *App) listReplicas(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(map[string][]replica.Peer{"replicas": append([]replica.Peer{}, a.replica.Peers()...)}) // the operator may have gone
}
