package ansible

func alive(int) bool { return false }
