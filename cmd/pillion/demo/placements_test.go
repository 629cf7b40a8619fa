package demo

import "testing"

// Who meets another version in one epoch has strayed; between epochs it has moved;
// while a change is taken over nothing counts.
func TestPlacements(t *testing.T) {
	t.Parallel()
	l := &load{}
	met := func(user, epoch int, version string) { l.places.note(user, epoch, version) }
	met(1, 0, "v1")
	met(2, 0, "v1")
	met(3, 0, "v2")
	met(1, 0, "v1")
	if l.strayed() != 0 || l.usersAt("v1") != 2 || l.usersAt("v2") != 1 {
		t.Errorf("at first: %+v", l.places)
	}
	l.unsettle()
	met(1, l.epoch(), "v2")
	l.settle()
	met(1, l.epoch()-2, "v2") // it began before
	if l.usersAt("v1") != 2 || l.strayed() != 0 {
		t.Errorf("in between: %+v", l.places)
	}
	met(1, l.epoch(), "v2")
	met(2, l.epoch(), "v1")
	if l.moves("v1", "v2") != 1 || l.moves("v2", "v1") != 0 || l.strayed() != 0 {
		t.Errorf("after the change: %+v", l.places)
	}
	met(1, l.epoch(), "v1")
	if l.strayed() != 1 {
		t.Errorf("a user that strays is not seen: %+v", l.places)
	}
	l.unsettle()
	l.settle()
	if l.moves("v1", "v2") != 0 {
		t.Errorf("moves of an earlier epoch are still there: %+v", l.places)
	}
}
