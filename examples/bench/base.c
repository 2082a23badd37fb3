/* What `now` is compared with by gate.toml. As it is, both are the same program: copy work.c over this file before you change work.c. */
#include "work.c"
