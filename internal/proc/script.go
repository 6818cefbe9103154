package proc

import (
	"strconv"
	"strings"
)

// EndScript is what a Tree does, as a text for the sh of another machine: it
// sends each of the signals, named as kill names them, to the process lead, its
// group, its session and all descendants of these, and awaits their end: 2
// seconds after each signal, 5 after the last. It fails if one is left. What
// only root may end, sudo ends where it may. On a Unix without /proc it is the
// group alone.
func EndScript(lead int, signals ...string) string {
	last := len(signals) - 1
	text := "lead=" + strconv.Itoa(lead) + "\n" + EndFunctions
	for _, s := range signals[:last] {
		text += "end " + s + " 40 && exit 0\n"
	}
	return text + "end " + signals[last] + " 100"
}

// EndFunctions are sh functions for a script of its own: "end SIGNAL N" is one
// round of what EndScript does for $lead, with N times 50 ms to wait. s is " "
// before the first. "look PID" sets state, parent, group, session and start, as
// /proc has them, and fails if there is no such process.
//
// s lists the processes of the tree as " pid-start ": a pid alone may be another's by then.
// The lead is the last of them: who waits for it goes on when the others have their signal.
var EndFunctions = strings.TrimLeft(`
s=" "
look() {
	l=; t=
	while IFS= read -r l || [ -n "$l" ]; do t="$t$l "; done 2>/dev/null <"/proc/$1/stat" || return 1
	[ -n "$t" ] || return 1
	set -- ${t##*)}
	state=$1 parent=$2 group=$3 session=$4 start=${20}
	case $state in Z | X) return 1 ;; esac
}
send() { kill -$1 $2 2>/dev/null || sudo -n kill -$1 $2 2>/dev/null; }
same() { look ${1%-*} && [ "$start" = "${1#*-}" ]; }
gather() {
	more=1
	while [ -n "$more" ]; do
		more=
		for d in /proc/[0-9]*; do
			p=${d#/proc/}
			look "$p" || continue
			case $s in *" $p-$start "*) continue ;; esac
			case " $p $group $session " in
			*" $lead "*) ;;
			*) case $s in *" $parent-"*) ;; *) continue ;; esac ;;
			esac
			if [ "$p" = "$lead" ]; then s="$s$p-$start "; else s=" $p-$start$s"; fi
			more=1
			send STOP $p
		done
	done
}
all() { for q in $s; do same $q && send $1 ${q%-*}; done; }
left() {
	if [ -r /proc/self/stat ]; then
		for q in $s; do same $q && return; done
		return 1
	fi
	kill -0 -$lead 2>/dev/null
}
end() {
	if [ -r /proc/self/stat ]; then gather; all $1; all CONT; else send $1 -$lead; fi
	n=0
	while left; do
		[ $n -lt $2 ] || return 1
		n=$((n + 1))
		sleep 0.05 2>/dev/null || sleep 1
	done
}
`, "\n")
