package functions

import (
	"bytes"
	"fmt"
)

// MaxSource is the size in bytes that a file of HCL or JSON may have.
const MaxSource = 4 << 20

// maxMarks bounds how deep the parser and the evaluator can be made to recurse:
// each level of nesting takes one of the marks.
const maxMarks = 40_000

// CheckSource refuses source that is too large, or so deeply nested that
// parsing it could exhaust the stack, which no error handling survives.
func CheckSource(src []byte) error {
	if len(src) > MaxSource {
		return fmt.Errorf("it is larger than %d bytes", MaxSource)
	}
	marks := 0
	for _, mark := range []byte("([{!-+*/%?<>=&|") {
		marks += bytes.Count(src, []byte{mark})
	}
	if marks > maxMarks {
		return fmt.Errorf("it has more than %d brackets and operators", maxMarks)
	}
	return nil
}
