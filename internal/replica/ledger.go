package replica

import (
	"time"

	"presence/internal/presence"
)

// ledger is the account of who is in which room through this replica, by the address
// they come from. It is part of members, whose lock guards it, and follows from them:
// a tab has one place, however many sockets it has, from the moment it asks to join
// until its last member is removed or, without a socket, its lease has run out.
type ledger struct {
	maxRooms   int // of one address; 0: no limit
	maxMembers int // likewise

	places   map[tabKey]*place
	leased   map[tabKey]*place // those with a lease
	accounts map[string]*account
}

// place is what one tab takes in one room.
type place struct {
	address string
	asking  int       // calls under way that may make a member of the tab
	until   time.Time // end of the lease of a tab without a socket; zero if it has none
}

// account is what one address has.
type account struct {
	members int
	rooms   map[string]int // how many members in each
}

func newLedger(o Options) ledger {
	return ledger{
		maxRooms: o.MaxRoomsPerAddress, maxMembers: o.MaxMembersPerAddress,
		places: map[tabKey]*place{}, leased: map[tabKey]*place{}, accounts: map[string]*account{},
	}
}

// take returns the place of a tab that is now at address, and makes one if it has
// none. With limited it is refused where the address has too many.
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

// refusal is why a tab that is now at address can't have a place; nil if it can.
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

// discharge takes a place off the account of its address.
func (l *ledger) discharge(tab tabKey, p *place) {
	a := l.accounts[p.address]
	if a.rooms[tab.room]--; a.rooms[tab.room] == 0 {
		delete(a.rooms, tab.room)
	}
	if a.members--; a.members == 0 {
		delete(l.accounts, p.address)
	}
}

// lease sets the end of a tab's lease; zero ends it.
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

// free gives the place of a tab back, unless something still keeps it. hasMembers
// says whether the tab has any.
func (l *ledger) free(tab tabKey, hasMembers bool) {
	if p := l.places[tab]; p != nil && !hasMembers && p.asking == 0 && p.until.IsZero() {
		l.discharge(tab, p)
		delete(l.places, tab)
	}
}

// reserve takes a place for a tab that wants to join, or says why it can't have one.
// answered must be called when it is known what became of it.
//
// An address of "" has no account, and no limit: it is that of a backend.
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

// answered ends what reserve began. A tab that has no member by now loses its place.
func (ms *members) answered(tab tabKey) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if p := ms.ledger.places[tab]; p != nil && p.asking > 0 {
		p.asking--
		ms.ledger.free(tab, len(ms.tabs[tab]) > 0)
	}
}

// leased notes that a tab without a socket, which is at address, counts until then.
func (ms *members) leased(tab tabKey, address string, until time.Time) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if address != "" {
		_, _ = ms.ledger.take(tab, address, false) // unlimited: it is there already
		ms.ledger.lease(tab, until)
	}
}

// expire gives back the places of tabs whose leases have run out.
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
