// What runs between the layers of a stream design: a word holds one position of a tensor with all of its channels.
#ifndef STREAM_H_
#define STREAM_H_

#include "hls_stream.h"

template <class T, int N> struct Word {
    T at[N];
};

// An array as words in row-major order, and back; only test benches need them.
template <class T, int N, int SIZE> void to_words(const T (&values)[SIZE], hls::stream<Word<T, N> > &words) {
    for (int word = 0; word < SIZE / N; word++) {
        Word<T, N> x;
        for (int lane = 0; lane < N; lane++) {
            x.at[lane] = values[word * N + lane];
        }
        words.write(x);
    }
}

template <class T, int N, int SIZE> void from_words(hls::stream<Word<T, N> > &words, T (&values)[SIZE]) {
    for (int word = 0; word < SIZE / N; word++) {
        const Word<T, N> x = words.read();
        for (int lane = 0; lane < N; lane++) {
            values[word * N + lane] = x.at[lane];
        }
    }
}

#endif
