// Package livecheck looks at a Pipedream that can be reached, and says fact by fact whether it answers as the engine was
// built to expect. It has one table of facts, each with a look that sends what it needs, and it judges raw answers. Only
// engine.go lets the engine's own client read them, to see what becomes of them there.
//
// A report has no secret and no personal datum in it by construction: a [Form] is always one of the texts in this
// package, and a number is a count, a status or a length of time. Nothing of an answer is ever copied. That includes
// names of fields that this package does not know: the names of an app's fields, or the keys of an object, can say who
// somebody is, and a hash of a short name can be guessed. So they are counted.
//
// One goroutine does everything, so there are no locks.
package livecheck
