// The top function of tiny.
#ifndef TINY_H_
#define TINY_H_

#include "types.h"

void tiny(const x_t x[3], y_t y[2]);

#endif
