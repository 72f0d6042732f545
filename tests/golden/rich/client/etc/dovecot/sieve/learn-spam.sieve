# A user says that this is spam.
require ["vnd.dovecot.pipe", "copy"];

pipe :copy :try "learn" ["spam"];
