// Package pipedreamtest simulates the accounts API of Pipedream, for tests and for the demo only: it keeps everything in
// memory, mints tokens that open nothing, and must never stand in for the real service.
//
// It answers as the real API is documented to, and worse where a test asks for it: see [Fault]. Where the documentation has two
// forms, the less convenient one is the default, and an [Option] or a field of [Account] has the other. What a client asks
// against the documentation is in [Server.Violations].
//
// Time is time.Now alone, so inside a testing/synctest bubble tokens are refreshed, expire and leave the rate limit's window by
// the bubble's clock. Such a test creates its [Server] inside the bubble, reaches it through [Server.Transport] and closes it
// before the bubble ends.
package pipedreamtest
