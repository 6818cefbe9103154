package proc

import "golang.org/x/sys/windows"

func exists(pid int) (alive, known bool) {
	h, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	switch err {
	case nil:
	case windows.ERROR_ACCESS_DENIED:
		return true, true
	case windows.ERROR_INVALID_PARAMETER: // what Windows says of a pid that is nobody's
		return false, true
	default:
		return false, false
	}
	defer windows.CloseHandle(h)
	var code uint32
	if err := windows.GetExitCodeProcess(h, &code); err != nil {
		return false, false
	}
	const stillActive = 259
	return code == stillActive, true
}
