package replica

import (
	"time"

	"presence/internal/presence"
)

// ledger counts, by the address that visitors come from, who is in which room through
// this replica. It is part of members, and the lock of members guards it. A tab has one
// place, however many sockets it has. The place exists from the moment when the tab asks
// to join, until the replica removes the tab's last member or, for a tab without a
// socket, until its lease ends.
type ledger struct {
	maxRooms   int // of one address; 0: no limit
	maxMembers int // likewise

	places   map[tabKey]*place
	leased   map[tabKey]*place // places that have a lease
	accounts map[string]*account
}

// place is what one tab in one room takes from the limits of its address.
type place struct {
	address string
	asking  int       // calls under way that may create a member of the tab
	until   time.Time // end of the lease of a tab without a socket; zero if it has none
}

// account counts the places of one address.
type account struct {
	members int
	rooms   map[string]int // room -> number of members
}

func newLedger(o Options) ledger {
	return ledger{
		maxRooms: o.MaxRoomsPerAddress, maxMembers: o.MaxMembersPerAddress,
		places: map[tabKey]*place{}, leased: map[tabKey]*place{}, accounts: map[string]*account{},
	}
}

// take returns the place of a tab that is now at address, and makes one if the tab has
// none. If limited, it refuses a place that would exceed a limit of the address.
func (l *ledger) take(tab tabKey, address string, limited bool) (*place, error) {
	p := l.places[tab]
	if p != nil && p.address == address {
		return p, nil
	}
	if limited {
		if err := l.refusal(tab, address); err != nil {
			return nil, err
		}
	}
	a := l.accounts[address]
	if a == nil {
		a = &account{rooms: map[string]int{}}
	}
	if p == nil {
		p = &place{}
		l.places[tab] = p
	} else {
		l.discharge(tab, p)
	}
	p.address = address
	l.accounts[address] = a
	a.members++
	a.rooms[tab.room]++
	return p, nil
}

// refusal returns the reason why a tab at address can't have a place; nil if it can.
func (l *ledger) refusal(tab tabKey, address string) error {
	a := l.accounts[address]
	if p := l.places[tab]; a == nil || p != nil && p.address == address {
		return nil
	}
	if l.maxMembers > 0 && a.members >= l.maxMembers {
		return presence.ErrAddressMembers
	}
	if l.maxRooms > 0 && a.rooms[tab.room] == 0 && len(a.rooms) >= l.maxRooms {
		return presence.ErrAddressRooms
	}
	return nil
}

// discharge subtracts a place from the account of its address.
func (l *ledger) discharge(tab tabKey, p *place) {
	a := l.accounts[p.address]
	if a.rooms[tab.room]--; a.rooms[tab.room] == 0 {
		delete(a.rooms, tab.room)
	}
	if a.members--; a.members == 0 {
		delete(l.accounts, p.address)
	}
}

// lease sets the end of a tab's lease; a zero time removes the lease.
func (l *ledger) lease(tab tabKey, until time.Time) {
	p := l.places[tab]
	if p == nil {
		return
	}
	if p.until = until; until.IsZero() {
		delete(l.leased, tab)
	} else {
		l.leased[tab] = p
	}
}

// free frees the place of a tab unless a call, a lease or a member still needs it.
// hasMembers says whether the tab has a member.
func (l *ledger) free(tab tabKey, hasMembers bool) {
	if p := l.places[tab]; p != nil && !hasMembers && p.asking == 0 && p.until.IsZero() {
		l.discharge(tab, p)
		delete(l.places, tab)
	}
}

// reserve takes a place for a tab that wants to join, or returns the reason why it can't
// have one. The caller must call unreserve when the outcome of the join is known.
//
// A backend has the address "", which has no account and no limit.
func (ms *members) reserve(tab tabKey, address string) error {
	if address == "" {
		return nil
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	p, err := ms.ledger.take(tab, address, true)
	if err == nil {
		p.asking++
	}
	return err
}

// unreserve ends a reservation. If the tab has no member now, it loses its place.
func (ms *members) unreserve(tab tabKey) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if p := ms.ledger.places[tab]; p != nil && p.asking > 0 {
		p.asking--
		ms.ledger.free(tab, len(ms.tabs[tab]) > 0)
	}
}

// leased notes that a tab without a socket, at address, has a lease until that time.
func (ms *members) leased(tab tabKey, address string, until time.Time) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if address != "" {
		_, _ = ms.ledger.take(tab, address, false) // unlimited: Redis has accepted the tab already
		ms.ledger.lease(tab, until)
	}
}

// expire frees the places of tabs whose leases have ended.
func (ms *members) expire(now time.Time) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for tab, p := range ms.ledger.leased {
		if !p.until.After(now) {
			ms.ledger.lease(tab, time.Time{})
			ms.ledger.free(tab, len(ms.tabs[tab]) > 0)
		}
	}
}
