package sandbox

// Hidden is the list of what a machine on the host's base does not see.
var Hidden = hidden
