package stream

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"presence/api"
	"presence/internal/presence"
)

// asyncapi.json describes every event, every code of an end and every reason of a leave,
// and nothing else.
func TestEventsAreDescribed(t *testing.T) {
	var document struct {
		Components struct {
			Messages map[string]any
			Schemas  struct {
				Reason struct{ Enum []presence.Reason }
				End    struct {
					Properties struct{ Code struct{ Enum []Code } }
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(api.AsyncAPI), &document); err != nil {
		t.Fatal(err)
	}
	said := document.Components
	var events []string
	for kind := range kinds {
		events = append(events, kindName(kind))
	}
	slices.Sort(events)
	if described := slices.Sorted(maps.Keys(said.Messages)); !slices.Equal(described, events) {
		t.Errorf("events %v, want %v", described, events)
	}
	if codes := []Code{Draining, Rotated, TokenExpired, Removed, Replaced, HasLeft, RoomFull}; !slices.Equal(said.Schemas.End.Properties.Code.Enum, codes) {
		t.Errorf("codes %v, want %v", said.Schemas.End.Properties.Code.Enum, codes)
	}
	reasons := []presence.Reason{presence.ReasonLeft, presence.ReasonClosed, presence.ReasonTimeout, presence.ReasonRemoved}
	if !slices.Equal(said.Schemas.Reason.Enum, reasons) {
		t.Errorf("reasons %v, want %v", said.Schemas.Reason.Enum, reasons)
	}
}
