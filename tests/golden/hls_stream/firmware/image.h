// The top function of image.
#ifndef IMAGE_H_
#define IMAGE_H_

#include "stream.h"
#include "types.h"

void image(hls::stream<Word<x_t, 2> > &x, hls::stream<Word<y_t, 3> > &y);

#endif
