package null

import "testing"

func TestNull(t *testing.T) {
	s := New()
	s.Options().(*Options).Input = "x"
	v, err := s.Read(t.Context())
	if err != nil || len(s.Check()) > 0 || !v.Type().Equals(s.Type()) || v.GetAttr("output").AsString() != "x" {
		t.Errorf("%#v, %v", v, err)
	}
}
